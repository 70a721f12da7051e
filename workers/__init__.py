"""Running jobs: one plain function per kind, and the pools that run them somewhere."""
