"""What lies in folders and stands in files, without what git ignores. Used by the tools that look for it."""
