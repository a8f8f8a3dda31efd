"""Other grammars: what is on the record, said in the words of other systems.

Each package or file owns one such grammar. A bridge follows the journal and reads what the index folds;
nothing below knows of it.
"""
