"""What the actors of an attempt are at, seen from outside: their own record, and the stacks of their processes."""
