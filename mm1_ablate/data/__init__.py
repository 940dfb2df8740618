"""Documents in, packed batches out: sources, their mixture, packing, images, and the items of evaluation tasks."""
