"""stub for import"""
