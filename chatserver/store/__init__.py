"""What is durable: the protocol (base.py) and its implementation over SQL (sql.py)."""
