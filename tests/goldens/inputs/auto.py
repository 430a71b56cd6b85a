import kdtune

study = kdtune.Study(until_decided=True, budget="400runs")
