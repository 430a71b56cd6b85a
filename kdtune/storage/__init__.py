"""Where a study lives: folders and object stores, the records, and who may write them.

- records: writer and reader of a study's records
- rounds: the record that fixes the finalists of a round of final repeats
- correctness: correctness of each example as short text, for the records
- dropping: runs that are dropped from a study, and restored
- unusable_folder: a folder that is full, read-only, gone or fails, in one sentence
- study_lock: the lock that lets one process of a machine write to a study
- connection: URI, options and credentials to an object store (obstore)
- object_store: whole objects in and out, conditional writes, retries
- mirror: copies between a working folder and an object store; upload of the records
- lease: one driver at a time writes to a study on an object store
- fetch: copy of a study on an object store, for reading it

May import config; never torch or Ray.
"""
