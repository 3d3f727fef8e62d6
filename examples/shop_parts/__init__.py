"""What surrounds the shop: the parts that it cannot trust to keep order by themselves."""
