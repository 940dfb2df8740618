"""A store on object storage. Known to nobody outside the store."""
