"""What users ask for, in one place for REST, pages and commands."""
