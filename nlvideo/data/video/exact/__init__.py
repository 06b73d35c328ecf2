"""What makes random access to a file equal to a decode in order."""
