"""Quality (accuracy by memory horizon) and performance (time, memory), each printed by one command."""
