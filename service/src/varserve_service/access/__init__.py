"""Who may do what: credentials, the policy, the audit log.

Knows no gRPC, no models, no contract.
"""
