from kdtune import Study

study = Study(nme="e")
