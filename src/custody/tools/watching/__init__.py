"""What a command changed in its workspace: `watch` goes before and after it, with a listing each time."""
