"""What others wrote, and what others will read: numbers in text, records with every field of its type, secrets masked.

Part of the ground: imports nothing but it, and everything may import this.
"""
