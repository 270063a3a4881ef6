"""Raw text to Megatron's indexed dataset: `quantctl data prepare`, and the tokenizers that training reads it with.

One process reads the shards in order, several tokenize batches of documents, and the first writes what comes back in
the order it was read, so that any number of processes gives the same bytes. Imports the ground only, and no torch.
"""
