"""What the programs of the workflow share. A room per stage of the data's way; no room imports from a later one."""
