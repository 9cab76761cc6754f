_base_ = ['./student.py']
distill = dict(
    teachers=[dict(config='examples/configs/teacher.py', checkpoint='work_dirs/examples/teacher/best.pth')],
    losses=dict(logits=dict(type='KL', on='logits', weight=0.5, tau=1.0)))
