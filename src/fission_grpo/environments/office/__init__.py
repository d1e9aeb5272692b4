"""Worlds of our own, and examples for yours: a calendar, a mailbox, a warehouse, a bank, and a personnel desk."""
