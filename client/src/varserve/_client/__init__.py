"""The client, internally. What a program may use is in `varserve` and `varserve.aio`.

Each room uses those below it:

    connect          a client of a target, or of the service that contexts find
    contexts         where the service is: environment and configuration file
    client, admin    the clients: models by name, and a method for every RPC
    handles          a served model, its variables and functions, as objects
    operations       one description for each RPC: its request, its answer, when it may be repeated
    transport        how an operation reaches the service, blocking or awaited
    values           what calls take and give, without protobuf
    errors           everything that can go wrong
"""
