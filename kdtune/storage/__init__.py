"""Where a study lives: folders and object stores, the records, and who may write them.

- records: writer and reader of a study's records
- object_store: a place on an object store
- mirror: copies between a working folder and an object store
- lease: one driver at a time on an object store

May import config.
"""
