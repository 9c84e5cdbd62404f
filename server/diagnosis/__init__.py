"""What `basemlx doctor` looks at, one file an area. Each check returns what it found; none prints or raises."""
