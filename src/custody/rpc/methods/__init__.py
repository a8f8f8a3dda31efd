"""The methods of the wire, one module a namespace, each with METHODS."""
