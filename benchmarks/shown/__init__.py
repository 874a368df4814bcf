"""Results as people read them: while they come, on a terminal, in Markdown, in pictures, and two runs compared."""
