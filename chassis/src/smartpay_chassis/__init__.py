"""What every service is bolted to; nothing about payments lives here."""
