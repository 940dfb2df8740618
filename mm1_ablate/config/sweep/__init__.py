"""From a sweep file to the distinct trials that it declares: read, overridden, expanded, checked."""
