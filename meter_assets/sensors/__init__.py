"""The sensors of the code location. What they find and send is decided in plain packages; here is when."""
