from prefect import flow


@flow(name="score_new")
def score_new(inbox=None, model=None):
    pass
