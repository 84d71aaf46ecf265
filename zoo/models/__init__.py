"""One file a family: its cards, its blocks, its builders."""
