"""Files of many records in, records by number out: the one way to read tar, parquet and JSON lines, for sources and benchmark items alike.

- `open_files` opens JSON lines or parquet, whichever the files are; `json_lines`, `parquet` and `tar` give records by number (`rows`: what
  rows of both have in common; `tar_headers`, `tar_index`: what `tar` is built on).
- `annotation_files` reads whole files of benchmarks, CSV and plain lines too.
- `image_folder` finds the images of benchmarks, in archives too; `image_index` finds one of many million pictures beside documents.
- `quick_check` says what cannot be read before any file is read whole; `file_signatures` and `compression` are about bytes.
"""
