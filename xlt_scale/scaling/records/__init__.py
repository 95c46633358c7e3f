"""What finished phases have measured: records, their index, status, export."""
