"""The command line: one function per verb, and the only place for flags, printing and exit codes."""
