"""What each command does, one file a command. Options are declared in server/cli.py."""
