"""Fission-GRPO (arXiv:2601.15625), pure: no model, no engine, no file. To be read in this order.

stage 1   rewards     what a trajectory is worth, term by term
          judge       reward and failure of one trajectory
          groups      trajectories that share one context, and so one baseline
          advantages  how much better a trajectory did than its siblings
stage 2   failures    which message failed first, why, and whose fault it is
          context     the corrective context x_corr = [x ; tau_err ; f]
          buffer      the LIFO buffer of contexts
          source      catches failures, has them diagnosed, hands out contexts
          offline     the offline variant, with its pool
stage 3   stages      explore, observe, recover: what an engine calls
          credit      which advantage each token gets
          batch       groups as rows and tensors
          losses      the objective
"""
