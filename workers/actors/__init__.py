"""The classes that Ray runs as actors; plain classes, usable without Ray."""
