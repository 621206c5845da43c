"""How good portraits are: plan, figures and the script that measures them."""
