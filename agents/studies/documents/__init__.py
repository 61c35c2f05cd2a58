"""Every command line of the original documents, played on embedded models, in one table."""
