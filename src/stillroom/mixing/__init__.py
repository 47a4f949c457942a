"""What `mix` does to a million records: scan them, remove what is there twice or tested, choose by weight."""
