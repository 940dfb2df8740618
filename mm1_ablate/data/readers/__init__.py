"""Files of many records in, records by number out: what the formats of `mm1_ablate.data.sources` are built on."""
