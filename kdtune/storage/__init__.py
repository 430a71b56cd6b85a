"""Where a study lives: folders and object stores, the records, and who may write them.

- records: records of a study: their schema, writer and reader
- store: object stores: whole objects in and out, conditional writes, connections
- mirror: a study on an object store: its lease, copies to and from it, dropped runs
- folder: a study's folder on this machine: its lock, and folders that cannot be used

May import config; never torch or Ray.
"""
