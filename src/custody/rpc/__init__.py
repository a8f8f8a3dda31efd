"""How Custody is asked from elsewhere: JSON-RPC 2.0 over any pair of text streams. Knows no socket."""
