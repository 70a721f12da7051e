"""Whatever is killed, searches go on: a real service is broken in random ways, and its record audited.

work.py        what the searches are made of, and that there is always one that runs
stage.py       the processes: `topiary serve`, and what it stands on
cluster.py     a Ray of several nodes;  postgresql.py a database server;  disk.py a small file system
faults.py      the ways to break them
rounds.py      one fault after another, each at a random moment, and the service found well again after each
audit.py       what must be on record at the end
"""
