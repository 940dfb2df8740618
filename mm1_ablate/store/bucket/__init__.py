"""A store on object storage. Not used outside of `store`."""
