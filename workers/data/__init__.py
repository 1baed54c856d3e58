"""From JSON lines to padded batches of token ids."""
