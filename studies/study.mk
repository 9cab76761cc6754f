# All of the study, hours on two cores. Stopped anywhere, the same command goes on; what is finished is not trained again.
#   make study DATA=../shared/data        DATA holds the folders optic_disc, camvid and nuclei
DATA ?= ../shared/data
RDISTILL ?= .venv/bin/rdistill
S := work_dirs/study
export OMP_NUM_THREADS := 1
export WANDB_MODE := offline

# $(call train,SET,FOLDER,CONFIG,FLAGS) and $(call sweep,SET,FOLDER,FILE,FLAGS): begun runs go on. A run that is finished
# leaves a file .done, since a sweep that goes on looks at each of its trials first.
train = @test -e $(S)/$(2)/.done || { $(RDISTILL) train $(3) --data-root $(DATA)/$(1) --work-dir $(S)/$(2) \
	$(if $(wildcard $(S)/$(2)/last.pth),--resume) $(4) && touch $(S)/$(2)/.done; }
sweep = @test -e $(S)/$(2)/.done || { $(RDISTILL) sweep $(3) --data-root $(DATA)/$(1) --work-dir $(S)/$(2) \
	$(if $(wildcard $(S)/$(2)/study.json),--resume) $(4) && touch $(S)/$(2)/.done; }
report = $(RDISTILL) report $(S)/$(1)

.PHONY: study optic-disc-few optic-disc-strong optic-disc-wider optic-disc-families camvid-strong nuclei-strong
study: optic-disc-few optic-disc-strong optic-disc-wider optic-disc-families camvid-strong nuclei-strong

OPTIC_27 := --set +train_dataloader.dataset.indices=27
optic-disc-few:
	$(call train,optic_disc,optic_disc/few/teacher,studies/optic_disc/teacher.py,$(OPTIC_27) --iters 600 --seed 0)
	$(call train,optic_disc,optic_disc/few/teacher-1,studies/optic_disc/teacher.py,$(OPTIC_27) --iters 600 --seed 1)
	$(call train,optic_disc,optic_disc/few/teacher-2,studies/optic_disc/teacher.py,$(OPTIC_27) --iters 600 --seed 2)
	$(call sweep,optic_disc,optic_disc/few/league,studies/optic_disc/league.yaml,--iters 500 --val-interval 100)
	$(call sweep,optic_disc,optic_disc/few/final,studies/optic_disc/final.yaml,--iters 1000 --val-interval 100)
	$(call report,optic_disc/few/final)

OPTIC_ALL := --teacher-checkpoint $(S)/optic_disc/all/teacher/best.pth
optic-disc-strong:
	$(call train,optic_disc,optic_disc/all/teacher,studies/optic_disc/teacher.py,--iters 800 --seed 0)
	$(call train,optic_disc,optic_disc/all/teacher-1,studies/optic_disc/teacher.py,--iters 800 --seed 1)
	$(call train,optic_disc,optic_disc/all/teacher-2,studies/optic_disc/teacher.py,--iters 800 --seed 2)
	$(call sweep,optic_disc,optic_disc/few/strong,studies/optic_disc/strong_teacher.yaml,$(OPTIC_ALL) --iters 1000 --val-interval 100)
	$(call report,optic_disc/few/strong)
	$(call sweep,optic_disc,optic_disc/few/levels,studies/optic_disc/levels.yaml,$(OPTIC_ALL) --iters 1500 --val-interval 150)
	$(call report,optic_disc/few/levels)

optic-disc-wider:
	$(call sweep,optic_disc,optic_disc/few/wider,studies/optic_disc/wider_student.yaml,--iters 1000 --val-interval 100)
	$(call report,optic_disc/few/wider)

optic-disc-families:
	$(call sweep,optic_disc,optic_disc/few/families,studies/optic_disc/families.yaml,$(OPTIC_ALL) --iters 800 --val-interval 100)
	$(call report,optic_disc/few/families)
	$(call sweep,optic_disc,optic_disc/few/several,studies/optic_disc/several_teachers.yaml,--iters 800 --val-interval 100)
	$(call report,optic_disc/few/several)

camvid-strong:
	$(call train,camvid,camvid/all/teacher,studies/camvid/teacher.py,--iters 800 --seed 0)
	$(call sweep,camvid,camvid/few/strong,studies/camvid/strong_teacher.yaml,--iters 800 --val-interval 100)
	$(call report,camvid/few/strong)

# The smaller student's best loss again at the learning rate of its baseline, see docs/study.md.
SMALLER_LR := --iters 800 --val-interval 200 --set optim_wrapper.optimizer.lr=0.016 --set distill.losses.kd.weight.share=0.3
nuclei-strong:
	$(call train,nuclei,nuclei/all/teacher,studies/nuclei/teacher.py,--iters 800 --val-interval 200 --seed 0)
	$(call sweep,nuclei,nuclei/few/strong,studies/nuclei/strong_teacher.yaml,--iters 800 --val-interval 200)
	$(call report,nuclei/few/strong)
	$(call sweep,nuclei,nuclei/few/one-source,studies/nuclei/one_source.yaml,--iters 800 --val-interval 200)
	$(call report,nuclei/few/one-source)
	$(call sweep,nuclei,nuclei/few/smaller,studies/nuclei/smaller_student.yaml,--iters 800 --val-interval 200)
	$(call report,nuclei/few/smaller)
	$(call train,nuclei,nuclei/few/lr-s7,studies/nuclei/few_labels_w3.py,$(SMALLER_LR) --seed 7)
	$(call train,nuclei,nuclei/few/lr-s8,studies/nuclei/few_labels_w3.py,$(SMALLER_LR) --seed 8)
	$(call train,nuclei,nuclei/few/lr-s9,studies/nuclei/few_labels_w3.py,$(SMALLER_LR) --seed 9)
	$(call train,nuclei,nuclei/few/lr-s10,studies/nuclei/few_labels_w3.py,$(SMALLER_LR) --seed 10)
	$(call train,nuclei,nuclei/few/lr-s11,studies/nuclei/few_labels_w3.py,$(SMALLER_LR) --seed 11)
	$(call train,nuclei,nuclei/few/lr-s12,studies/nuclei/few_labels_w3.py,$(SMALLER_LR) --seed 12)
	$(call sweep,nuclei,nuclei/few/smaller-again,studies/nuclei/smaller_student_again.yaml,--iters 1600 --val-interval 400)
	$(call report,nuclei/few/smaller-again)
