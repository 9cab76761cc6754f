# Labels for each tenth of the 398 training images. The teacher saw all labels. Crops and scales are random, so each image
# has eight fixed views, and the teacher's outputs on them are stored once for all runs.
_base_ = ['./student.py']
train_dataloader = dict(dataset=dict(indices=[*range(0, 398, 10)]))
distill = dict(
    teachers=[dict(config='studies/nuclei/teacher.py', checkpoint='work_dirs/study/nuclei/all/teacher/best.pth')],
    # stride 16 of the pyramids
    features=dict(student=['neck[2]'], teacher=['neck[2]']),
    losses=dict(kd=dict(type='KL', on='logits', weight=dict(share=1.0))),
    store=dict(views=8, keep='features', bits=16, dir='work_dirs/study/nuclei/store'),
    unlabeled=dict(img_dir='img_dir/train', per_batch=8))
