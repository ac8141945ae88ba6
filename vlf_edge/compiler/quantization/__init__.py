"""fp32 graphs and ranges to int8 graphs (Q/DQ nodes) and fp16 types."""
