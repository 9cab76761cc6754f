# The same students under three teachers of all labels, which differ in their seeds alone.
_base_ = ['./few_labels.py']
distill = dict(
    teachers=[
        dict(config='studies/optic_disc/teacher.py', checkpoint=f'work_dirs/study/optic_disc/all/{name}/best.pth')
        for name in ('teacher', 'teacher-1', 'teacher-2')
    ])
