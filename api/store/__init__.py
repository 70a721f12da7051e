"""The SQL database: tables, sessions, and every query as a method of one repository."""
