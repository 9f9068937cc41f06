"""One page that compares every protocol, and the numbers behind it."""
