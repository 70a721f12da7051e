"""What users ask for, each within one transaction; the command calls these, and REST will."""
