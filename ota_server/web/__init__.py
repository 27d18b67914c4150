"""What every page and every connection needs: files, limits, metrics."""
