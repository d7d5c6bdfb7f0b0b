"""The payment actor carries out payment actions at a provider and posts the results back."""
